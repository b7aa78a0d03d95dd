//! The link between a service's method number and the structs it carries.

use valor_wire::Wire;

/// One RPC method: its numbers, its names and its message types.
///
/// A request travels as the encoded [`Method::Req`]; the reply is an encoded `Result<Rsp, Status>`.
pub trait Method: Send + Sync + 'static {
    /// Service number in the packet.
    const SERVICE_ID: u16;
    /// Service name, as it appears in `ServiceGroupInfo.services`.
    const SERVICE: &'static str;
    /// Method number in the packet.
    const ID: u16;
    /// Method name as 3FS spells it, for logs and metrics.
    const NAME: &'static str;
    /// Request body.
    type Req: Wire + Send + Sync + 'static;
    /// Body of a successful reply.
    type Rsp: Wire + Send + Sync + 'static;
}

/// Declares a service's unit structs, one per method, and the table of them.
macro_rules! methods {
    ($service:literal, $service_id:literal;
     $($(#[$doc:meta])* $marker:ident = $id:literal $name:literal ($req:ty) -> $rsp:ty;)*) => {
        /// Service number.
        pub const SERVICE_ID: u16 = $service_id;
        /// Service name, as it appears in `ServiceGroupInfo.services`.
        pub const SERVICE: &str = $service;
        /// Every method of the service: number and name.
        pub const METHODS: &[(u16, &str)] = &[$(($id, $name)),*];
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub struct $marker;
            impl $crate::method::Method for $marker {
                const SERVICE_ID: u16 = $service_id;
                const SERVICE: &'static str = $service;
                const ID: u16 = $id;
                const NAME: &'static str = $name;
                type Req = $req;
                type Rsp = $rsp;
            }
        )*
    };
}
pub(crate) use methods;
