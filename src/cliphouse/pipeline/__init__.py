"""From shards on disk to rows in the table: plan, read, write."""
