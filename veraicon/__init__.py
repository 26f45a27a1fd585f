"""The composition root: settings, database, the story, the durable workflow, HTTP and the command line."""
