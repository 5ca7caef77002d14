"""Many layouts: folders, shards, videos and pipes, and what is made of several pictures of one."""
