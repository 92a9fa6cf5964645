"""What vision says about theta before the first push."""
