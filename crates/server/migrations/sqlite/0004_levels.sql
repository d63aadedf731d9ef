-- The isolation level that an instance was placed at; NULL where there was no choice yet, which was microvm.
ALTER TABLE instances ADD COLUMN level TEXT;
