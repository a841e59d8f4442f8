//! The whole system under test: a real hub, real agents and the command line, with real faults.
