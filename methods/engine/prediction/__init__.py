"""What models say of a person's own images, whatever their task: `attnbias predict`."""
