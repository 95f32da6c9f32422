"""From records to samples: media found and opened, answers read, families assigned, shards written."""
