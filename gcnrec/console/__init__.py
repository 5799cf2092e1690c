"""What options take, and which errors end a command with a sentence."""
