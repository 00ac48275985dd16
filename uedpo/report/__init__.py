"""Pages and tables; they read run directories, never the trainer."""
