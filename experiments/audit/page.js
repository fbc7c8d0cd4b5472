'use strict';
const decisions = new Map(); // row -> keep, drop or unsure
let isSaved = true;
const byId = (id) => document.getElementById(id);
const pairs = [...document.querySelectorAll('.pair')];
const rowsOf = (element) => element.dataset.rows.split(' ').map(Number);

function decide(rows, decision) {
  const isUndone = rows.every((row) => decisions.get(row) === decision);
  for (const row of rows) {
    if (isUndone) decisions.delete(row);
    else decisions.set(row, decision);
  }
  isSaved = false;
  update();
}

function update() {
  for (const pair of pairs) pair.dataset.decided = decisions.get(Number(pair.dataset.row)) ?? 'none';
  for (const group of document.querySelectorAll('.decide')) {
    const rows = rowsOf(group);
    for (const button of group.children) {
      button.setAttribute('aria-pressed', String(rows.every((row) => decisions.get(row) === button.dataset.decision)));
    }
  }
  const counts = { keep: 0, drop: 0, unsure: 0 };
  for (const decision of decisions.values()) counts[decision] += 1;
  byId('counts').textContent = `${counts.keep} to keep, ${counts.drop} to drop, ${counts.unsure} unsure`;
  filter();
}

function filter() {
  const [words, why, decided] = [byId('search').value.toLowerCase().trim(), byId('why').value, byId('decided').value];
  for (const pair of pairs) {
    const isFound = pair.querySelector('.text').textContent.toLowerCase().includes(words);
    pair.hidden = !isFound || (why && pair.dataset.why !== why) || (decided && pair.dataset.decided !== decided);
  }
  byId('visible').textContent = `${visible().length} of ${pairs.length} shown`;
}

function visible() {
  return pairs.filter((pair) => !pair.hidden);
}

function content() {
  const { format, version, fingerprint } = document.body.dataset;
  const of = (decision) => [...decisions].filter((each) => each[1] === decision).map((each) => each[0]).sort((a, b) => a - b);
  return { format, version: Number(version), fingerprint, keep: of('keep'), drop: of('drop'), unsure: of('unsure') };
}

function save() {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content())], { type: 'application/json' }));
  link.download = 'decisions.json';
  link.click();
  isSaved = true;
}

async function load(file) {
  byId('problem').textContent = '';
  try {
    const saved = JSON.parse(await file.text());
    if (saved.fingerprint !== document.body.dataset.fingerprint) throw new Error('it is of another data set');
    const read = ['keep', 'drop', 'unsure'].flatMap((decision) => saved[decision].map((row) => [row, decision]));
    for (const [row, decision] of read) decisions.set(row, decision); // all of a file, or nothing
  } catch (error) {
    byId('problem').textContent = `This file cannot be read: ${error.message}`;
  }
  update();
}

document.addEventListener('click', ({ target }) => {
  if (target.dataset.decision) decide(rowsOf(target.parentElement), target.dataset.decision);
  if (target.dataset.bulk) decide(visible().map((pair) => Number(pair.dataset.row)), target.dataset.bulk);
});
for (const id of ['search', 'why', 'decided']) byId(id).addEventListener('input', filter);
byId('save').addEventListener('click', save);
byId('load').addEventListener('change', ({ target }) => target.files.length && load(target.files[0]));
window.addEventListener('beforeunload', (event) => {
  if (!isSaved) event.preventDefault();
});
update();
