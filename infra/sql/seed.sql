-- A small table with rows for trying Hearth out. Needs roles.sql before it; it may run again, and adds nothing twice.
--
--   psql "$ADMIN_URL" -v tenant=acme -f infra/sql/seed.sql

\set ON_ERROR_STOP on
\set QUIET on
\if :{?tenant}
\else
  \warn 'seed.sql: give the tenant: -v tenant=acme'
  select 1/0 as tenant_is_missing;
\endif
\set owner :tenant _owner

begin;

-- As the owner, so that the tenant's default privileges apply to what is made.
set local role :"owner";
set local search_path = :"tenant";

create table if not exists users (
  id      bigint primary key generated always as identity,
  name    text not null unique,
  tags    text[] not null default '{}',
  credit  numeric(12, 2) not null default 0 check (credit >= 0),
  created timestamptz not null default now()
);

insert into users (name, tags, credit) values
  ('Ada',    '{analyst,founder}', 120.50),
  ('Grace',  '{compiler}',        99.99),
  ('Edsger', '{}',                0)
on conflict (name) do nothing;

commit;
