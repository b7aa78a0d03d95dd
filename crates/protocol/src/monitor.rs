//! Metrics collector (`src/fbs/monitor_collector`, `src/common/monitor/Sample.h`).

use std::collections::BTreeMap;
use valor_wire::{UtcTime, Void, Wire};

/// Labels of a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct TagSet {
    /// Label to value.
    pub tag_set: BTreeMap<String, String>,
}

/// Summary of many measurements.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct Distribution {
    /// How many.
    pub cnt: f64,
    /// Their sum.
    pub sum: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// Value of a sample.
#[derive(Clone, Debug, PartialEq, Wire)]
#[wire(variant)]
pub enum SampleValue {
    /// A number.
    #[wire(name = "long")]
    Number(i64),
    /// A distribution.
    #[wire(name = "dist")]
    Distribution(Distribution),
}

impl Default for SampleValue {
    fn default() -> Self {
        SampleValue::Number(0)
    }
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct Sample {
    /// Metric name.
    pub name: String,
    /// Labels.
    pub tags: TagSet,
    /// When it was taken.
    pub timestamp: UtcTime,
    /// What it is.
    pub value: SampleValue,
}

/// Reply of `write`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct MonitorCollectorRsp {
    /// Nothing.
    pub dummy: Void,
}

/// Methods of the collector.
pub mod methods {
    use super::*;
    crate::method::methods! { "MonitorCollector", 194;
        /// Stores samples. The request is a bare vector.
        Write = 1 "write" (Vec<Sample>) -> MonitorCollectorRsp;
    }
}
