-- Which of several nodes of one name this life is: the identity of its data directory. A start
-- replaces at once only what is its own; a life of another that uses the name must run out.
ALTER TABLE life ADD COLUMN instance text;
