"""What of laila is tested: programs beside a node that take the operations of workloads (`laila lab subject`)."""
