"""The models directory and what lies in it: found, read, followed, and told whole from half."""
