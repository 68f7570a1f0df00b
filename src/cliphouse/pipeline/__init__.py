"""From pictures to shards, and from shards on disk to rows in the table."""
