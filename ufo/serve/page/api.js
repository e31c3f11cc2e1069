// Talking to the server, and small helpers for the page. Whatever comes from it is shown as text, never as HTML.

const TOKEN = "ufo-token";
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(TOKEN, given);
  history.replaceState(null, "", location.pathname); // a token is not left in the address bar
}

export const element = (id) => document.getElementById(id);

export function show(error) {
  const place = element("error");
  place.textContent = error ? error.message || String(error) : "";
  place.hidden = !error;
}

export async function ask(path, body) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer; it may have been stopped.");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.error || `The server refused this (${response.status}).`);
  return content;
}

export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function swatch(color) {
  const made = make("span", { className: "swatch" });
  made.style.background = color; // through the object model, which the page's policy allows
  return made;
}

export function table(place, head, rows) {
  const cell = (value) => {
    const number = typeof value === "number";
    return make("td", { textContent: number ? value.toFixed(4) : value, className: number ? "number" : "" });
  };
  place.replaceChildren(
    make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { textContent: name, scope: "col" })))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))),
  );
}

export function picture(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("The browser cannot show this picture."));
    image.src = address;
  });
}

export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
