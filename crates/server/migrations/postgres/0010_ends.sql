-- Ends that time brings, and nodes that go out of service.

-- End of the time to live, once the guest has opened its keys.
ALTER TABLE instances ADD COLUMN ends_at_ms BIGINT;
-- Who wants that the node gets no new instances, and when those that it has are ended.
ALTER TABLE nodes ADD COLUMN drained_by TEXT CHECK (drained_by IN ('hoster', 'operator'));
ALTER TABLE nodes ADD COLUMN drain_until_ms BIGINT;
