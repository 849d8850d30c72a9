-- When a key becomes good, and when it was last used.

ALTER TABLE hearth.keys ADD COLUMN not_before timestamptz;

-- Beside the keys, and without triggers: a use is no change, and wakes nobody. Room in each page keeps a row's new version
-- beside its old one, since each is written again and again.
CREATE TABLE hearth.key_uses (
    id text COLLATE "C" PRIMARY KEY REFERENCES hearth.keys ON DELETE CASCADE ON UPDATE CASCADE,
    last_used timestamptz NOT NULL
) WITH (fillfactor = 70);

-- Whoever could read or write keys can do the same with their uses, so that an upgrade asks for no grants.
DO $$
DECLARE
    held record;
BEGIN
    FOR held IN
        SELECT acl.privilege_type AS privilege,
            CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END AS grantee
        FROM pg_class AS class, aclexplode(class.relacl) AS acl
        WHERE class.oid = 'hearth.keys'::regclass AND acl.grantee <> class.relowner
            AND acl.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE format('GRANT %s ON hearth.key_uses TO %s', held.privilege, held.grantee);
    END LOOP;
END $$;
