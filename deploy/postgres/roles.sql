-- The Postgres image runs this file once, as the owner of the database, before any table exists.
-- The projector may read and insert; `noetl-events schema`, which creates the table, runs as the owner.
\set ON_ERROR_STOP on
\getenv password NOETL_PROJECTOR_PASSWORD
CREATE ROLE noetl_projector LOGIN PASSWORD :'password';
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO noetl_projector;
ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO noetl_projector;
