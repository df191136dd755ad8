"""What the same work costs without a host: one small file per floor, each with `open_lane(shape)`."""
