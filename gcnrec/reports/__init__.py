"""What people see: progress, text, charts, pages."""
