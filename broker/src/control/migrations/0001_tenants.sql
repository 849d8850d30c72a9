-- Tenants, their policies and their keys; and what brokers follow.

-- Names compare by their bytes everywhere: a list goes on after a name in the same order on any server.
CREATE TABLE hearth.tenants (
    name text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9_-]{1,63}$'),
    suspended_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- What stands in a tenant's section of the configuration file, but for its keys. Without a row: the defaults.
CREATE TABLE hearth.policies (
    tenant text COLLATE "C" PRIMARY KEY REFERENCES hearth.tenants ON DELETE CASCADE ON UPDATE CASCADE,
    body jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(body) = 'object')
);

-- Hashes alone: a secret is shown once and kept nowhere.
CREATE TABLE hearth.keys (
    id text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_-]{1,63}$'),
    tenant text COLLATE "C" NOT NULL REFERENCES hearth.tenants ON DELETE CASCADE ON UPDATE CASCADE,
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    scopes text[] NOT NULL CHECK (cardinality(scopes) > 0),
    statements text[],
    expires timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    -- The key that this one was made in place of.
    replaces text COLLATE "C"
);
CREATE INDEX keys_tenant ON hearth.keys (tenant);

-- One row. Whoever changes a tenant holds it until the commit, so that changes are numbered in the order in which they
-- become visible, and a broker that has seen number n has seen all up to n.
CREATE TABLE hearth.revision (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Another one: read everything again.
    epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    seq bigint NOT NULL DEFAULT 0
);
INSERT INTO hearth.revision DEFAULT VALUES;

-- The last change of each tenant, of those too that are gone.
CREATE TABLE hearth.changes (
    tenant text COLLATE "C" PRIMARY KEY,
    seq bigint NOT NULL
);
CREATE INDEX changes_seq ON hearth.changes (seq);

CREATE FUNCTION hearth.note_changes(names text[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    next bigint;
BEGIN
    IF names IS NULL OR cardinality(names) = 0 THEN
        RETURN;
    END IF;
    UPDATE hearth.revision SET seq = seq + 1 RETURNING seq INTO next;
    INSERT INTO hearth.changes (tenant, seq) SELECT DISTINCT name, next FROM unnest(names) AS name WHERE name IS NOT NULL
        ON CONFLICT (tenant) DO UPDATE SET seq = excluded.seq;
    PERFORM pg_notify('hearth_changes', next::text);
END $$;

-- One function a kind of statement, for the three tables; the argument is the column with the tenant's name.
CREATE FUNCTION hearth.inserted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names text[];
BEGIN
    EXECUTE format('SELECT array_agg(%I) FROM fresh', TG_ARGV[0]) INTO names;
    PERFORM hearth.note_changes(names);
    RETURN NULL;
END $$;

CREATE FUNCTION hearth.updated() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names text[];
BEGIN
    EXECUTE format('SELECT array_agg(name) FROM (SELECT %1$I AS name FROM stale UNION SELECT %1$I FROM fresh) AS named',
        TG_ARGV[0]) INTO names;
    PERFORM hearth.note_changes(names);
    RETURN NULL;
END $$;

CREATE FUNCTION hearth.deleted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names text[];
BEGIN
    EXECUTE format('SELECT array_agg(%I) FROM stale', TG_ARGV[0]) INTO names;
    PERFORM hearth.note_changes(names);
    RETURN NULL;
END $$;

CREATE FUNCTION hearth.truncated() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE hearth.revision SET epoch = gen_random_uuid(), seq = seq + 1;
    PERFORM pg_notify('hearth_changes', '');
    RETURN NULL;
END $$;

CREATE FUNCTION hearth.touched() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at = now();
    RETURN NEW;
END $$;
CREATE TRIGGER touched BEFORE UPDATE ON hearth.tenants FOR EACH ROW EXECUTE FUNCTION hearth.touched();

CREATE TRIGGER inserted AFTER INSERT ON hearth.tenants REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION hearth.inserted('name');
CREATE TRIGGER updated AFTER UPDATE ON hearth.tenants REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION hearth.updated('name');
CREATE TRIGGER deleted AFTER DELETE ON hearth.tenants REFERENCING OLD TABLE AS stale
    FOR EACH STATEMENT EXECUTE FUNCTION hearth.deleted('name');
CREATE TRIGGER truncated AFTER TRUNCATE ON hearth.tenants FOR EACH STATEMENT EXECUTE FUNCTION hearth.truncated();

CREATE TRIGGER inserted AFTER INSERT ON hearth.policies REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION hearth.inserted('tenant');
CREATE TRIGGER updated AFTER UPDATE ON hearth.policies REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION hearth.updated('tenant');
CREATE TRIGGER deleted AFTER DELETE ON hearth.policies REFERENCING OLD TABLE AS stale
    FOR EACH STATEMENT EXECUTE FUNCTION hearth.deleted('tenant');
CREATE TRIGGER truncated AFTER TRUNCATE ON hearth.policies FOR EACH STATEMENT EXECUTE FUNCTION hearth.truncated();

CREATE TRIGGER inserted AFTER INSERT ON hearth.keys REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION hearth.inserted('tenant');
CREATE TRIGGER updated AFTER UPDATE ON hearth.keys REFERENCING OLD TABLE AS stale NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION hearth.updated('tenant');
CREATE TRIGGER deleted AFTER DELETE ON hearth.keys REFERENCING OLD TABLE AS stale
    FOR EACH STATEMENT EXECUTE FUNCTION hearth.deleted('tenant');
CREATE TRIGGER truncated AFTER TRUNCATE ON hearth.keys FOR EACH STATEMENT EXECUTE FUNCTION hearth.truncated();
