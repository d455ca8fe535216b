"""What an answer is: styles, boxes, and normal forms of texts, for training data and scores alike."""
