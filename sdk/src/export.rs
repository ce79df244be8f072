//! The macros that make a component of a type. They emit nothing off wasm: a native library whose
//! symbols hold `:` and `@` does not link.

/// Makes the crate a document filter component.
#[macro_export]
macro_rules! export_document_filter {
    ($filter:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::bindings::filter_glue::Component<$filter>;
    $crate::bindings::filter::export_filter!(Plugin with_types_in $crate::bindings::filter);
        };
    };
}

/// Makes the crate an identity provider component.
#[macro_export]
macro_rules! export_identity_provider {
    ($provider:ty) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::bindings::identity_glue::Component<$provider>;
            $crate::bindings::identity::export_identity!(
                Plugin with_types_in $crate::bindings::identity
            );
        };
    };
}
