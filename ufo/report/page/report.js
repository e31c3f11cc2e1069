// Show the pictures of one class and one kind of error. Everything is in the page; nothing is loaded.
for (const form of document.querySelectorAll("form.filter")) {
  const figures = [...form.nextElementSibling.children];
  const show = () => {
    const wanted = [...form.querySelectorAll("select")].filter((select) => select.value);
    for (const figure of figures) {
      figure.hidden = !wanted.every((select) => figure.dataset[select.name].split("\n").includes(select.value));
    }
    form.querySelector("output").textContent = `${figures.filter((f) => !f.hidden).length} of ${figures.length}`;
  };
  form.onchange = show;
  form.onsubmit = (event) => event.preventDefault();
  show();
}
