-- What node and guest saw of an instance's protection, as JSON; NULL where they said nothing yet.
ALTER TABLE instances ADD COLUMN observed TEXT;
