-- Who may do what: accounts with roles, projects with members, tokens with limits; and what was done.

CREATE TABLE accounts (
    name           TEXT PRIMARY KEY,
    -- Of tenant, hoster, operator; separated by commas.
    roles          TEXT NOT NULL,
    created_at_ms  INTEGER NOT NULL,
    disabled_at_ms INTEGER
) STRICT;

-- An account's own project has its name. Instances have theirs in `owner`.
CREATE TABLE projects (
    id               TEXT PRIMARY KEY,
    name             TEXT NOT NULL,
    created_at_ms    INTEGER NOT NULL,
    -- Absent: as the configuration says.
    quota_instances  INTEGER,
    quota_cpus       INTEGER,
    quota_memory_mib INTEGER
) STRICT;

CREATE TABLE project_members (
    project TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    account TEXT NOT NULL REFERENCES accounts (name),
    role    TEXT NOT NULL CHECK (role IN ('owner', 'member')),
    PRIMARY KEY (project, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX project_members_by_account ON project_members (account);

CREATE TABLE api_tokens (
    -- Begins the hash, so whoever finds a token can say which one it is.
    id            TEXT PRIMARY KEY,
    hash          BLOB NOT NULL UNIQUE,
    account       TEXT NOT NULL REFERENCES accounts (name),
    name          TEXT NOT NULL,
    -- What it is limited to; absent: nothing more than the account is.
    roles         TEXT,
    project       TEXT REFERENCES projects (id) ON DELETE CASCADE,
    verbs         TEXT,
    read_only     INTEGER NOT NULL,
    -- The token that made it.
    made_by       TEXT,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    revoked_at_ms INTEGER
) STRICT;
CREATE INDEX api_tokens_by_account ON api_tokens (account);

INSERT INTO accounts (name, roles, created_at_ms)
SELECT s.name,
       CASE WHEN NOT EXISTS (SELECT 1 FROM tokens t WHERE t.subject = s.name AND t.role = 'operator') THEN 'tenant'
            WHEN EXISTS (SELECT 1 FROM tokens t WHERE t.subject = s.name AND t.role = 'tenant')
              OR EXISTS (SELECT 1 FROM instances i WHERE i.owner = s.name) THEN 'tenant,operator'
            ELSE 'operator' END,
       CAST(unixepoch('subsec') * 1000 AS INTEGER)
FROM (SELECT subject AS name FROM tokens WHERE role IN ('tenant', 'operator') UNION SELECT owner FROM instances) s;
INSERT INTO projects (id, name, created_at_ms) SELECT name, name, created_at_ms FROM accounts;
INSERT INTO project_members (project, account, role) SELECT name, name, 'owner' FROM accounts;
-- A token may do what it might, and not what another one of the same holder may.
INSERT INTO api_tokens (id, hash, account, name, roles, read_only, created_at_ms, expires_at_ms)
SELECT 't-' || lower(hex(substr(hash, 1, 8))), hash, subject, '', role, 0, created_at_ms, expires_at_ms
FROM tokens WHERE role IN ('tenant', 'operator');
-- What is left enrols nodes.
DELETE FROM tokens WHERE role IN ('tenant', 'operator');
ALTER TABLE tokens ADD COLUMN hoster TEXT REFERENCES accounts (name);
-- Absent: the platform's own.
ALTER TABLE nodes ADD COLUMN hoster TEXT REFERENCES accounts (name);

-- What was begun, and what came of it. Rows stay as they are.
CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY,
    at_ms   INTEGER NOT NULL,
    account TEXT NOT NULL,
    -- Absent: somebody at the server's command line, or a node.
    token   TEXT,
    action  TEXT NOT NULL,
    target  TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_account ON audit (account, seq);
CREATE TABLE audit_outcomes (
    seq    INTEGER PRIMARY KEY REFERENCES audit (seq),
    -- HTTP's status.
    status INTEGER NOT NULL,
    -- What it made, or what it changed to.
    detail TEXT
) STRICT;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit record only grows'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit record only grows'); END;
CREATE TRIGGER outcome_is_not_changed BEFORE UPDATE ON audit_outcomes BEGIN SELECT RAISE(ABORT, 'the audit record only grows'); END;
CREATE TRIGGER outcome_is_not_deleted BEFORE DELETE ON audit_outcomes BEGIN SELECT RAISE(ABORT, 'the audit record only grows'); END;

-- Answers to requests with an Idempotency-Key, readable only with the token that asked.
CREATE TABLE answers (
    token          TEXT NOT NULL,
    key_digest     BLOB NOT NULL,
    request_digest BLOB NOT NULL,
    -- Which attempt has it, while there is no answer.
    attempt        BLOB NOT NULL,
    begun_at_ms    INTEGER NOT NULL,
    status         INTEGER,
    sealed         BLOB,
    PRIMARY KEY (token, key_digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_by_time ON answers (begun_at_ms);
