//! Offers.

use casemate_api::rest::{NewOffer, Offer, Offers};
use reqwest::{Method, Url};

use super::{Client, segment};

/// Most offers in one answer.
const PAGE: usize = 1000;

impl Client {
    /// Offers by these parameters, page by page, at most so many.
    pub(crate) async fn offers(&self, parameters: &[(&str, String)], limit: usize) -> anyhow::Result<Offers> {
        let mut all = Offers { offers: Vec::new(), next: None };
        loop {
            let page = PAGE.min(limit - all.offers.len()).to_string();
            let after = all.next.take().map(|next| ("after", next));
            let pairs: Vec<(&str, String)> = parameters.iter().cloned().chain([("limit", page)]).chain(after).collect();
            let url = Url::parse_with_params("https://platform/", &pairs)?;
            let more: Offers = self.get(&format!("/offers?{}", url.query().unwrap_or_default())).await?;
            all.offers.extend(more.offers);
            all.next = more.next;
            if all.next.is_none() || all.offers.len() >= limit {
                return Ok(all);
            }
        }
    }

    pub(crate) async fn offer(&self, node: &str) -> anyhow::Result<Offer> {
        self.get(&format!("/offers/{}", segment(node)?)).await
    }

    pub(crate) async fn set_offer(&self, node: &str, new: &NewOffer) -> anyhow::Result<Offer> {
        let request = self.request(Method::PUT, &format!("/offers/{}", segment(node)?)).json(new);
        self.fetch(request, "set the offer").await
    }

    pub(crate) async fn withdraw_offer(&self, node: &str) -> anyhow::Result<()> {
        let request = self.request(Method::DELETE, &format!("/offers/{}", segment(node)?));
        self.once(request, "withdraw the offer").await.map(drop)
    }
}
