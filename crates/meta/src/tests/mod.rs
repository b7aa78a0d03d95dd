//! Tests of the whole service over memory.

mod golden;
