//! Who sells: how a request says who its seller is, and who may change a ticket that has none.

use common::pod::auth::{Auth, AuthSettings, Caller};

/// How sellers are known.
#[derive(Debug, Clone)]
pub struct Sellers {
    /// Who a request's seller is.
    pub auth: Auth,
    of_old_tickets: Option<Caller>,
}

/// Who wants to change a ticket.
#[derive(Debug, Clone, Copy)]
pub struct Seller<'a> {
    /// Their name.
    pub name: &'a str,
    /// Whether they may change a ticket without a seller as well, and become its seller by that.
    pub adopts: bool,
}

impl Seller<'_> {
    /// Whether a ticket of this seller, or of none, is theirs to change.
    #[must_use]
    pub fn may_change(&self, seller: Option<&str>) -> bool {
        seller.map_or(self.adopts, |seller| seller == self.name)
    }
}

impl Sellers {
    /// By these settings. `default` is everybody's name while tokens are turned off; then it has the old
    /// tickets as well, unless the settings say whose they are.
    ///
    /// # Errors
    /// As [`Auth::new`].
    pub fn new(
        settings: &AuthSettings,
        default: &Caller,
        of_old_tickets: Option<&Caller>,
    ) -> Result<Self, String> {
        let auth = Auth::new(settings, default)?;
        let of_old_tickets = of_old_tickets.or(auth.always()).cloned();
        Ok(Self { auth, of_old_tickets })
    }

    /// What a caller may change.
    #[must_use]
    pub fn seller<'a>(&self, caller: &'a Caller) -> Seller<'a> {
        Seller { name: caller.as_str(), adopts: self.of_old_tickets.as_ref() == Some(caller) }
    }
}
