"""What TensorBoard shows beside curves: circuits and frontiers as pictures, gates, recovery."""
