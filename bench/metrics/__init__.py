"""What is measured, and the cells of the record that it becomes."""
