//! What a node has to tell, as Python's tuples: their name, then their values. What comes in large numbers comes as
//! one tuple with a list.

use std::sync::Arc;
use std::time::Instant;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use zmqgame_core::bus::message::Content;
use zmqgame_core::bus::node::event::NodeEvent;
use zmqgame_core::bus::node::report::Report;

use crate::node_driver::Driver;
use crate::node_receipts::{Batch, Receipts, Taken};
use crate::node_values::{Delivery, MessageId};

macro_rules! event {
    ($py:ident, $name:literal $(, $field:expr)*) => {
        (intern!($py, $name), $($field,)*).into_pyobject($py)
    };
}

/// The last payload and its Python object: recipients of one group message share it.
#[derive(Default)]
pub struct Shared<'py>(Option<(Arc<[u8]>, Bound<'py, PyBytes>)>);

impl<'py> Shared<'py> {
    pub fn bytes(&mut self, py: Python<'py>, payload: &Arc<[u8]>) -> Bound<'py, PyBytes> {
        match &self.0 {
            Some((known, bytes)) if Arc::ptr_eq(known, payload) => bytes.clone(),
            _ => {
                let bytes = PyBytes::new(py, payload);
                if Arc::strong_count(payload) > 1 {
                    self.0 = Some((Arc::clone(payload), bytes.clone()));
                }
                bytes
            }
        }
    }
}

/// The list that grows at the end of the events, and what is in it.
#[derive(Default)]
enum Open<'py> {
    #[default]
    None,
    Deliveries(Bound<'py, PyList>),
    Receipts(Bound<'py, PyList>),
}

/// All events since the last call, in order.
pub fn take<'py>(
    py: Python<'py>,
    driver: &mut Driver,
    receipts: &mut Receipts,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    let (mut shared, mut open) = (Shared::default(), Open::None);
    let mut now = None;
    driver.begin_events();
    while let Some(event) = driver.poll_event() {
        match event {
            NodeEvent::Message {
                player,
                id,
                content,
                traced,
                payload,
            } => {
                let bytes = shared.bytes(py, &payload).unbind();
                let mut delivery = Delivery::new(player, id, content as u8, bytes);
                delivery.traced = traced;
                if !matches!(open, Open::Deliveries(_)) {
                    let new = PyList::empty(py);
                    list.append(event!(py, "deliveries", &new)?)?;
                    open = Open::Deliveries(new);
                }
                if let Open::Deliveries(into) = &open {
                    into.append(Bound::new(py, delivery)?)?;
                }
            }
            NodeEvent::Receipt {
                seq,
                outcome,
                detail,
            } => receipt(
                py,
                &list,
                &mut open,
                receipts,
                &mut now,
                (seq, outcome as u8, detail),
            )?,
            NodeEvent::Unknown { seq, why } => {
                receipt(
                    py,
                    &list,
                    &mut open,
                    receipts,
                    &mut now,
                    (seq, 0, why.to_owned()),
                )?;
            }
            other => {
                list.append(tuple_of(py, other)?)?;
                open = Open::None;
            }
        }
    }
    Ok(list)
}

fn receipt<'py>(
    py: Python<'py>,
    list: &Bound<'py, PyList>,
    open: &mut Open<'py>,
    receipts: &mut Receipts,
    now: &mut Option<Instant>,
    (seq, outcome, detail): (u64, u8, String),
) -> PyResult<()> {
    let now = *now.get_or_insert_with(Instant::now);
    match receipts.take(seq, outcome, &detail, now) {
        Taken::Noted => {}
        Taken::Whole(first, batch) => {
            list.append(batch_of(py, first, &batch)?)?;
            *open = Open::None;
        }
        Taken::Alone => {
            if !matches!(open, Open::Receipts(_)) {
                let new = PyList::empty(py);
                list.append(event!(py, "receipts", &new)?)?;
                *open = Open::Receipts(new);
            }
            if let Open::Receipts(into) = &*open {
                into.append((seq, outcome, detail))?;
            }
        }
    }
    Ok(())
}

fn batch_of<'py>(py: Python<'py>, first: u64, batch: &Batch) -> PyResult<Bound<'py, PyTuple>> {
    let latencies: Vec<u8> = batch
        .latencies_us
        .iter()
        .flat_map(|latency| latency.to_ne_bytes())
        .collect();
    event!(
        py,
        "batch",
        first,
        PyBytes::new(py, &batch.outcomes),
        PyBytes::new(py, &latencies),
        &batch.details
    )
}

fn report_of(py: Python<'_>, seq: u64, report: Report) -> PyResult<Bound<'_, PyTuple>> {
    let players = report.players.iter();
    let entries: Vec<(&str, u8, &str)> = players
        .map(|entry| (entry.player, entry.outcome as u8, entry.detail))
        .collect();
    event!(py, "report", seq, report.counts, entries, report.omitted)
}

fn payload_of<'py>(py: Python<'py>, content: Content, payload: &[u8]) -> (u8, Bound<'py, PyBytes>) {
    (content as u8, PyBytes::new(py, payload))
}

fn tuple_of(py: Python<'_>, event: NodeEvent) -> PyResult<Bound<'_, PyTuple>> {
    match event {
        NodeEvent::Connect => event!(py, "connect"),
        NodeEvent::Close { why } => event!(py, "close", why),
        NodeEvent::Up { hub_epoch } => event!(py, "up", hub_epoch),
        NodeEvent::Down { why } => event!(py, "down", why),
        NodeEvent::Refused { code, text } => event!(py, "refused", code, text),
        NodeEvent::Report { seq, report } => report_of(py, seq, report),
        NodeEvent::Bound { player, login } => event!(py, "bound", player, login),
        NodeEvent::Dropped { player, why } => event!(py, "dropped", player, why),
        NodeEvent::LoggedOut { player } => event!(py, "logged_out", player),
        NodeEvent::Forget { player, up_to } => {
            event!(py, "forget", player, MessageId::new(up_to, None))
        }
        NodeEvent::Presence { snapshot, entries } => {
            let entries: Vec<(u8, String, String)> = entries
                .into_iter()
                .map(|(kind, name, node)| (kind as u8, name, node))
                .collect();
            event!(py, "presence", snapshot, entries)
        }
        NodeEvent::Call {
            call,
            from,
            deadline_ms,
            service,
            content,
            payload,
        } => {
            let (content, bytes) = payload_of(py, content, &payload);
            event!(py, "call", call, from, deadline_ms, service, content, bytes)
        }
        NodeEvent::CallCancelled { call } => event!(py, "call_cancelled", call),
        NodeEvent::Answer {
            call,
            status,
            content,
            payload,
        } => {
            let (content, bytes) = payload_of(py, content, &payload);
            event!(py, "answer", call, status as u8, content, bytes)
        }
        NodeEvent::Joined {
            request,
            ok,
            detail,
        } => event!(py, "joined", request, ok, detail),
        // Taken as lists above, or never told so: the driver polls one by one.
        NodeEvent::Message { .. }
        | NodeEvent::Messages { .. }
        | NodeEvent::Receipt { .. }
        | NodeEvent::Unknown { .. } => Ok(PyTuple::empty(py)),
    }
}
