//! `#[derive(Wire)]`: the one macro of the project, for the encoding rules of 3FS's `SERDE_STRUCT_FIELD` structs.
//!
//! | on | meaning |
//! |---|---|
//! | struct with named fields | table: varint byte length, then the fields in order. Needs `Default` |
//! | `#[wire(base)]` on the first field | base class: its own table(s) first, ours beside it; no own table if it is the only field |
//! | `#[wire(raw)]` on a struct | fields back to back, no table |
//! | struct with one unnamed field | transparent |
//! | fieldless enum with `#[repr(u8/u16/u32/i32..)]` | its underlying integer; unknown values are refused |
//! | `#[wire(variant)]` on an enum of one-field variants | type name string, then the value |
//! | `#[wire(name = "long")]` on a variant | its name on the wire, when not its Rust name |
//! | `#[wire(fallback)]` on a unit variant | what unknown names decode to; the rest of the enclosing table is skipped |

use proc_macro::TokenStream;
use proc_macro2::TokenStream as TokenStream2;
use quote::quote;
use syn::{Attribute, Data, DataEnum, DeriveInput, Error, Field, Fields, LitStr, Result, parse_macro_input};

/// Implements `valor_wire::Wire`; see the crate's documentation for the attributes.
#[proc_macro_derive(Wire, attributes(wire))]
pub fn derive_wire(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// What `#[wire(...)]` says on one item.
#[derive(Default)]
struct Options {
    base: bool,
    raw: bool,
    variant: bool,
    fallback: bool,
    name: Option<String>,
}

impl Options {
    fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut options = Self::default();
        for attribute in attributes.iter().filter(|a| a.path().is_ident("wire")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("base") {
                    options.base = true;
                } else if meta.path.is_ident("raw") {
                    options.raw = true;
                } else if meta.path.is_ident("variant") {
                    options.variant = true;
                } else if meta.path.is_ident("fallback") {
                    options.fallback = true;
                } else if meta.path.is_ident("name") {
                    options.name = Some(meta.value()?.parse::<LitStr>()?.value());
                } else {
                    return Err(meta.error("expected base, raw, variant, fallback or name"));
                }
                Ok(())
            })?;
        }
        Ok(options)
    }
}

/// The three items of a `Wire` implementation.
struct Body {
    min_size: TokenStream2,
    encode: TokenStream2,
    decode: TokenStream2,
}

fn expand(input: &DeriveInput) -> Result<TokenStream2> {
    let options = Options::parse(&input.attrs)?;
    let body = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => {
                let fields: Vec<&Field> = fields.named.iter().collect();
                if options.raw { raw(&fields) } else { table(&fields)? }
            }
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => transparent(&fields.unnamed[0]),
            _ => {
                return Err(Error::new_spanned(
                    &input.ident,
                    "Wire needs named fields or exactly one unnamed field",
                ));
            }
        },
        Data::Enum(data) if options.variant => variant(data)?,
        Data::Enum(data) => integer(input, data)?,
        Data::Union(_) => return Err(Error::new_spanned(&input.ident, "Wire cannot be derived for a union")),
    };
    let Body { min_size, encode, decode } = body;
    let name = &input.ident;
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(syn::parse_quote!(::valor_wire::Wire));
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::valor_wire::Wire for #name #type_generics #where_clause {
            const MIN_SIZE: usize = #min_size;
            fn encode(&self, out: &mut ::valor_wire::Encoder) { #encode }
            fn decode(
                input: &mut ::valor_wire::Decoder,
            ) -> ::core::result::Result<Self, ::valor_wire::DecodeError> { #decode }
        }
    })
}

/// A struct as one table, with its base class's tables before it.
fn table(fields: &[&Field]) -> Result<Body> {
    let mut base = None;
    let mut own = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let name = field.ident.as_ref().expect("named fields have names");
        if Options::parse(&field.attrs)?.base {
            if index != 0 {
                return Err(Error::new_spanned(name, "#[wire(base)] belongs on the first field"));
            }
            base = Some((name, &field.ty));
        } else {
            own.push((name, &field.ty));
        }
    }
    let (base_size, encode_base, decode_base) = match base {
        Some((name, ty)) => (
            quote!(<#ty as ::valor_wire::Wire>::MIN_SIZE),
            quote!(::valor_wire::Wire::encode(&self.#name, out);),
            quote!(value.#name = <#ty as ::valor_wire::Wire>::decode(input)?;),
        ),
        None => (quote!(0), quote!(), quote!()),
    };
    let has_own_table = base.is_none() || !own.is_empty();
    let (own_size, encode_own, decode_own) = if has_own_table {
        let reversed =
            own.iter().rev().map(|(name, _)| quote!(::valor_wire::Wire::encode(&self.#name, out);));
        let forward = own.iter().map(|(name, ty)| {
            quote! {
                if input.is_empty() { return ::core::result::Result::Ok(()); }
                value.#name = <#ty as ::valor_wire::Wire>::decode(input)?;
            }
        });
        (
            quote!(1),
            quote!(let end = out.len(); #(#reversed)* out.put_length_since(end);),
            quote!(input.table(|input| { #(#forward)* ::core::result::Result::Ok(()) })?;),
        )
    } else {
        (quote!(0), quote!(), quote!())
    };
    Ok(Body {
        min_size: quote!(#base_size + #own_size),
        encode: quote!(#encode_own #encode_base),
        decode: quote! {
            #[allow(unused_mut)]
            let mut value = <Self as ::core::default::Default>::default();
            #decode_base
            #decode_own
            ::core::result::Result::Ok(value)
        },
    })
}

/// A struct as its fields back to back.
fn raw(fields: &[&Field]) -> Body {
    let names: Vec<_> = fields.iter().map(|field| &field.ident).collect();
    let types: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    let reversed = names.iter().rev();
    Body {
        min_size: quote!(0 #(+ <#types as ::valor_wire::Wire>::MIN_SIZE)*),
        encode: quote!(#(::valor_wire::Wire::encode(&self.#reversed, out);)*),
        decode: quote!(::core::result::Result::Ok(Self {
            #(#names: <#types as ::valor_wire::Wire>::decode(input)?,)*
        })),
    }
}

/// A newtype as the value it wraps.
fn transparent(field: &Field) -> Body {
    let ty = &field.ty;
    Body {
        min_size: quote!(<#ty as ::valor_wire::Wire>::MIN_SIZE),
        encode: quote!(::valor_wire::Wire::encode(&self.0, out)),
        decode: quote!(::core::result::Result::Ok(Self(<#ty as ::valor_wire::Wire>::decode(input)?))),
    }
}

/// A fieldless enum as its underlying integer.
fn integer(input: &DeriveInput, data: &DataEnum) -> Result<Body> {
    let mut repr = None;
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("repr")) {
        repr = Some(attribute.parse_args::<syn::Ident>()?);
    }
    let Some(repr) = repr else {
        return Err(Error::new_spanned(
            &input.ident,
            "Wire needs #[repr(integer)] or #[wire(variant)] on an enum",
        ));
    };
    if let Some(variant) = data.variants.iter().find(|variant| !matches!(variant.fields, Fields::Unit)) {
        return Err(Error::new_spanned(variant, "an integer enum has no fields; use #[wire(variant)]"));
    }
    let name = &input.ident;
    let arms = data.variants.iter().map(|variant| {
        let variant = &variant.ident;
        quote!(n if n == Self::#variant as #repr => ::core::result::Result::Ok(Self::#variant),)
    });
    let variants: Vec<_> = data.variants.iter().map(|variant| &variant.ident).collect();
    Ok(Body {
        min_size: quote!(::core::mem::size_of::<#repr>()),
        encode: quote! {
            // Spelled out so that the enum need not be `Copy`.
            let number: #repr = match self { #(Self::#variants => Self::#variants as #repr,)* };
            ::valor_wire::Wire::encode(&number, out)
        },
        decode: quote! {
            match <#repr as ::valor_wire::Wire>::decode(input)? {
                #(#arms)*
                n => ::core::result::Result::Err(::valor_wire::DecodeError::UnknownEnum {
                    name: ::core::stringify!(#name),
                    value: n as i64,
                }),
            }
        },
    })
}

/// An enum as a type name and a value.
fn variant(data: &DataEnum) -> Result<Body> {
    let mut encode = Vec::new();
    let mut decode = Vec::new();
    let mut names = Vec::new();
    let mut unknown = quote!(::core::result::Result::Err(::valor_wire::DecodeError::UnknownVariant { name }));
    for variant in &data.variants {
        let options = Options::parse(&variant.attrs)?;
        let ident = &variant.ident;
        let text = options.name.clone().unwrap_or_else(|| ident.to_string());
        match &variant.fields {
            Fields::Unit => {
                encode.push(quote!(Self::#ident => out.put_string(#text.as_bytes()),));
                if options.fallback {
                    unknown = quote!({ input.skip_rest(); ::core::result::Result::Ok(Self::#ident) });
                } else {
                    let index = names.len();
                    names.push(text);
                    decode.push(quote!(::core::result::Result::Ok(#index) => {
                        ::core::result::Result::Ok(Self::#ident)
                    }));
                }
            }
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 && !options.fallback => {
                let ty = &fields.unnamed[0].ty;
                encode.push(quote! {
                    Self::#ident(value) => {
                        ::valor_wire::Wire::encode(value, out);
                        out.put_string(#text.as_bytes());
                    }
                });
                let index = names.len();
                names.push(text);
                decode.push(quote!(::core::result::Result::Ok(#index) => {
                    ::core::result::Result::Ok(Self::#ident(<#ty as ::valor_wire::Wire>::decode(input)?))
                }));
            }
            _ => return Err(Error::new_spanned(variant, "a variant has one unnamed field, a fallback none")),
        }
    }
    Ok(Body {
        min_size: quote!(1),
        encode: quote!(match self { #(#encode)* }),
        decode: quote! {
            #[allow(unused_variables)]
            match input.variant(&[#(#names),*])? {
                #(#decode)*
                ::core::result::Result::Err(name) => #unknown,
                ::core::result::Result::Ok(_) => ::core::unreachable!("an index of the list given"),
            }
        },
    })
}
