-- Who may do what: accounts with roles, projects with members, tokens with limits; and what was done.

CREATE TABLE accounts (
    name           TEXT COLLATE "C" PRIMARY KEY,
    -- Of tenant, hoster, operator; separated by commas.
    roles          TEXT NOT NULL,
    created_at_ms  BIGINT NOT NULL,
    disabled_at_ms BIGINT
);

-- An account's own project has its name. Instances have theirs in `owner`.
CREATE TABLE projects (
    id               TEXT COLLATE "C" PRIMARY KEY,
    name             TEXT COLLATE "C" NOT NULL,
    created_at_ms    BIGINT NOT NULL,
    -- Absent: as the configuration says.
    quota_instances  BIGINT,
    quota_cpus       BIGINT,
    quota_memory_mib BIGINT
);

CREATE TABLE project_members (
    project TEXT COLLATE "C" NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    account TEXT COLLATE "C" NOT NULL REFERENCES accounts (name),
    role    TEXT NOT NULL CHECK (role IN ('owner', 'member')),
    PRIMARY KEY (project, account)
);
CREATE INDEX project_members_by_account ON project_members (account);

CREATE TABLE api_tokens (
    -- Begins the hash, so whoever finds a token can say which one it is.
    id            TEXT COLLATE "C" PRIMARY KEY,
    hash          BYTEA NOT NULL UNIQUE,
    account       TEXT COLLATE "C" NOT NULL REFERENCES accounts (name),
    name          TEXT COLLATE "C" NOT NULL,
    -- What it is limited to; absent: nothing more than the account is.
    roles         TEXT,
    project       TEXT COLLATE "C" REFERENCES projects (id) ON DELETE CASCADE,
    verbs         TEXT,
    read_only     BIGINT NOT NULL,
    -- The token that made it.
    made_by       TEXT,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    revoked_at_ms BIGINT
);
CREATE INDEX api_tokens_by_account ON api_tokens (account);

INSERT INTO accounts (name, roles, created_at_ms)
SELECT s.name,
       CASE WHEN NOT EXISTS (SELECT 1 FROM tokens t WHERE t.subject = s.name AND t.role = 'operator') THEN 'tenant'
            WHEN EXISTS (SELECT 1 FROM tokens t WHERE t.subject = s.name AND t.role = 'tenant')
              OR EXISTS (SELECT 1 FROM instances i WHERE i.owner = s.name) THEN 'tenant,operator'
            ELSE 'operator' END,
       CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)
FROM (SELECT subject AS name FROM tokens WHERE role IN ('tenant', 'operator') UNION SELECT owner FROM instances) s;
INSERT INTO projects (id, name, created_at_ms) SELECT name, name, created_at_ms FROM accounts;
INSERT INTO project_members (project, account, role) SELECT name, name, 'owner' FROM accounts;
-- A token may do what it might, and not what another one of the same holder may.
INSERT INTO api_tokens (id, hash, account, name, roles, read_only, created_at_ms, expires_at_ms)
SELECT 't-' || encode(substr(hash, 1, 8), 'hex'), hash, subject, '', role, 0, created_at_ms, expires_at_ms
FROM tokens WHERE role IN ('tenant', 'operator');
-- What is left enrols nodes.
DELETE FROM tokens WHERE role IN ('tenant', 'operator');
ALTER TABLE tokens ADD COLUMN hoster TEXT COLLATE "C" REFERENCES accounts (name);
-- Absent: the platform's own.
ALTER TABLE nodes ADD COLUMN hoster TEXT COLLATE "C" REFERENCES accounts (name);

-- What was begun, and what came of it. Rows stay as they are.
CREATE TABLE audit (
    seq     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms   BIGINT NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    -- Absent: somebody at the server's command line, or a node.
    token   TEXT,
    action  TEXT NOT NULL,
    target  TEXT NOT NULL
);
CREATE INDEX audit_by_account ON audit (account, seq);
CREATE TABLE audit_outcomes (
    seq    BIGINT PRIMARY KEY REFERENCES audit (seq),
    -- HTTP's status.
    status BIGINT NOT NULL,
    -- What it made, or what it changed to.
    detail TEXT
);
CREATE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the audit record only grows'; END $$;
CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_stays();
CREATE TRIGGER outcomes_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_outcomes FOR EACH STATEMENT EXECUTE FUNCTION audit_stays();

-- Answers to requests with an Idempotency-Key, readable only with the token that asked.
CREATE TABLE answers (
    token          TEXT COLLATE "C" NOT NULL,
    key_digest     BYTEA NOT NULL,
    request_digest BYTEA NOT NULL,
    -- Which attempt has it, while there is no answer.
    attempt        BYTEA NOT NULL,
    begun_at_ms    BIGINT NOT NULL,
    status         BIGINT,
    sealed         BYTEA,
    PRIMARY KEY (token, key_digest)
);
CREATE INDEX answers_by_time ON answers (begun_at_ms);
