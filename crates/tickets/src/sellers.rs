//! Identifies sellers, and decides who may change a ticket.

use common::pod::auth::{Auth, AuthSettings, Caller};

/// The rules about sellers.
#[derive(Debug, Clone)]
pub struct Sellers {
    /// Determines the seller of a request.
    pub auth: Auth,
    of_old_tickets: Option<Caller>,
}

/// The seller who requests a change.
#[derive(Debug, Clone, Copy)]
pub struct Seller<'a> {
    /// Their name.
    pub name: &'a str,
    /// Whether they may also change a ticket without a seller, and so become its seller.
    pub adopts: bool,
}

impl Seller<'_> {
    /// Whether this seller may change a ticket of `seller`, or of no seller.
    #[must_use]
    pub fn may_change(&self, seller: Option<&str>) -> bool {
        seller.map_or(self.adopts, |seller| seller == self.name)
    }
}

impl Sellers {
    /// Rules from the settings. `default` is every caller's name while tokens are turned off; it
    /// then also owns the old tickets, unless the settings name another owner.
    ///
    /// # Errors
    /// Same as [`Auth::new`].
    pub fn new(
        settings: &AuthSettings,
        default: &Caller,
        of_old_tickets: Option<&Caller>,
    ) -> Result<Self, String> {
        let auth = Auth::new(settings, default)?;
        let of_old_tickets = of_old_tickets.or(auth.fixed_caller()).cloned();
        Ok(Self { auth, of_old_tickets })
    }

    /// Returns what a caller may change.
    #[must_use]
    pub fn seller<'a>(&self, caller: &'a Caller) -> Seller<'a> {
        Seller { name: caller.as_str(), adopts: self.of_old_tickets.as_ref() == Some(caller) }
    }
}
