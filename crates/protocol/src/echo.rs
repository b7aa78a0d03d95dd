//! Echo services: `echo::Service`, present on every server group, and the example application's.

use valor_wire::Wire;

/// A text that comes back (`src/common/serde/Echo.h`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct Message {
    /// The text.
    pub str: String,
}

/// Methods of the echo service.
pub mod methods {
    use super::*;
    crate::method::methods! { "echo::Service", 10000;
        /// Returns its request.
        Echo = 1 "echo" (Message) -> Message;
    }
}

/// The example application of 3FS (`src/fbs/simple_example/SerdeService.h`).
pub mod simple_example {
    use valor_wire::Wire;

    /// A text that comes back.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
    pub struct SimpleExampleMessage {
        /// The text.
        pub message: String,
    }

    /// Methods of the example service.
    pub mod methods {
        use super::*;
        crate::method::methods! { "SimpleExampleSerde", 0xf0;
            /// Returns its request.
            Echo = 1 "echo" (SimpleExampleMessage) -> SimpleExampleMessage;
        }
    }
}
