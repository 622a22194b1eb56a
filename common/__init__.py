"""What the eight scripts share: the paper here, its networks and numbers in common/store/."""
