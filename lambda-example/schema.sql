-- The orders function's table. A deploy runs this file; the function never does, since a function that creates tables
-- asks for the right to, and asks the database again at every start. Running it twice changes nothing.
--
--   psql "$DATABASE_URL" --set ON_ERROR_STOP=1 --file schema.sql

CREATE TABLE IF NOT EXISTS orders (
    id       int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item     text NOT NULL CHECK (item <> ''),
    quantity int4 NOT NULL CHECK (quantity > 0),
    created  timestamptz NOT NULL DEFAULT now()
);
