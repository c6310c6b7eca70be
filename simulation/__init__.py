"""A day of traffic on a Plan: autoscaling, cold starts, interruptions, queues and cost over time."""
