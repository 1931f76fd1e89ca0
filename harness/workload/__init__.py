"""What a rank trains: the model, its batches, DeepSpeed's engine and the loop; needs torch and DeepSpeed."""
