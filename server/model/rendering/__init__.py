"""Chat templates rendered in processes of their own, bounded in time, memory and output."""
