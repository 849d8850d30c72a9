-- The roles and grants of one tenant in one database. Run by whoever administers the database; it may run again.
--
--   TENANT_PASSWORD=… psql "$ADMIN_URL" -v tenant=acme -f infra/sql/roles.sql
--
-- Variables, all but the first with a default:
--   tenant                name of the tenant; start of the role names and name of the schema. [a-z][a-z0-9_]*, at most 40
--   connection_limit      most connections of the tenant's login. At least the pool's `max` times the most brokers that
--                         run, and a few for a deployment, when old and new brokers overlap. Default: 100
--   statement_timeout     what a statement may take when nobody says otherwise. The broker sets the request's deadline
--                         itself; this is the backstop. Default: 30s
--   lock_timeout          what waiting for a lock may take. Default: 10s
--   idle_timeout          what a transaction may idle. Above the broker's own limit (30 s), so that the broker, which
--                         keeps the outcome, ends it first. Default: 35s
-- The password comes from the environment, not from an argument that every process list shows. Without one an existing
-- password stays, and a new role cannot log in by password. The server may log the statement that sets it: keep
-- log_statement at none or mod, or set the password with psql's \password, which sends only its hash.
--
-- Tenants that write their own SQL are apart because each logs in as its own role (SET ROLE could be escaped by RESET
-- ROLE). A role sees its own schema; the names of roles and databases in the catalogs are visible to all.

\set ON_ERROR_STOP on
\set QUIET on
\if :{?tenant}
\else
  \warn 'roles.sql: give the tenant: -v tenant=acme'
  select 1/0 as tenant_is_missing;
\endif
\if :{?connection_limit}
\else
  \set connection_limit 100
\endif
\if :{?statement_timeout}
\else
  \set statement_timeout 30s
\endif
\if :{?lock_timeout}
\else
  \set lock_timeout 10s
\endif
\if :{?idle_timeout}
\else
  \set idle_timeout 35s
\endif

select :'tenant' !~ '^[a-z][a-z0-9_]{0,39}$' as tenant_is_bad \gset
\if :tenant_is_bad
  \warn 'roles.sql: a tenant is [a-z][a-z0-9_]*, at most 40 characters'
  select 1/0 as tenant_is_bad;
\endif

\set owner :tenant _owner
\set login :tenant _rw
\set password ''
\getenv password TENANT_PASSWORD

begin;

-- The owner holds the schema and is used for migrations (SET ROLE by an administrator); nobody logs in as it. The login
-- is the broker's: it reads and writes rows and may do nothing else. It inherits nothing and may not act as the owner.
select format('create role %I', role)
  from unnest(array[:'owner', :'login']) as role
 where not exists (select from pg_roles where rolname = role)
\gexec
alter role :"owner" nologin nocreatedb nocreaterole noinherit;
alter role :"login" login nocreatedb nocreaterole noinherit connection limit :connection_limit;

-- A role that exists with more than that is not made harmless in silence: taking these away needs a superuser.
select count(*) > 0 as too_powerful
  from pg_roles
 where rolname in (:'owner', :'login') and (rolsuper or rolreplication or rolbypassrls)
\gset
\if :too_powerful
  \warn 'roles.sql: a role of that name exists that is a superuser, replicates or bypasses row security'
  select 1/0 as role_is_too_powerful;
\endif

select format('alter role %I password %L', :'login', :'password') where :'password' <> ''
\gexec

-- Managed databases have administrators who are not superusers: they must be members to hand a schema over.
select format('grant %I to current_user', :'owner') from pg_roles where rolname = current_user and not rolsuper
\gexec

alter role :"login" in database :"DBNAME" set statement_timeout = :'statement_timeout';
alter role :"login" in database :"DBNAME" set lock_timeout = :'lock_timeout';
alter role :"login" in database :"DBNAME" set idle_in_transaction_session_timeout = :'idle_timeout';
alter role :"login" in database :"DBNAME" set search_path = :"tenant";

-- The database: nobody by default, then this tenant. Temporary tables would outlive a request on a pooled connection.
revoke all on database :"DBNAME" from public;
grant connect on database :"DBNAME" to :"login";
revoke create on schema public from public;

-- The schema: made and owned by the owner; the login works on its rows, today's and tomorrow's.
select format('create schema %I authorization %I', :'tenant', :'owner')
 where not exists (select from pg_namespace where nspname = :'tenant')
\gexec
revoke all on schema :"tenant" from public;
grant usage on schema :"tenant" to :"login";
grant select, insert, update, delete on all tables in schema :"tenant" to :"login";
grant usage, select on all sequences in schema :"tenant" to :"login";
alter default privileges for role :"owner" in schema :"tenant" grant select, insert, update, delete on tables to :"login";
alter default privileges for role :"owner" in schema :"tenant" grant usage, select on sequences to :"login";

-- The table of idempotency keys, where `hearth migrate` has made it: the key's row is written beside the effect, by this role.
select to_regclass('hearth.idempotency') is not null as has_keys,
       coalesce((select not relrowsecurity from pg_class where oid = to_regclass('hearth.idempotency')), false) as keys_are_shared
\gset
\if :has_keys
  grant usage on schema hearth to :"login";
  grant select, insert, update, delete on hearth.idempotency to :"login";
\endif
\if :keys_are_shared
  \warn 'roles.sql: hearth.idempotency has no row security: tenants of this database can read each other''s stored answers'
\endif

commit;

\echo Role :login may work in schema :tenant of database :DBNAME
