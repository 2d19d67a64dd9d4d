// The difference of two texts, word by word.

const MOST_WORDS = 1500; // that differ on a side; more are marked as a whole

// Return *before* and *after* as elements: what only one of them has stands in <del> and <ins>.
export function difference(before, after) {
  const [old, now] = [before, after].map((text) => text.match(/\s+|\w+|[^\s\w]/g) ?? []);
  let start = 0;
  while (start < Math.min(old.length, now.length) && old[start] === now[start]) start += 1;
  let end = 0;
  while (end < Math.min(old.length, now.length) - start && old.at(-1 - end) === now.at(-1 - end)) end += 1;
  const [oldPart, nowPart] = [old, now].map((words) => words.slice(start, words.length - end));
  const kept = Math.max(oldPart.length, nowPart.length) > MOST_WORDS ? [[], []] : common(oldPart, nowPart);
  return [[old, oldPart, kept[0], "del"], [now, nowPart, kept[1], "ins"]].map(([words, part, same, tag]) => {
    const shown = document.createElement("pre");
    shown.append(words.slice(0, start).join(""), ...marked(part, new Set(same), tag), words.slice(words.length - end).join(""));
    return shown;
  });
}

// The positions, in each of the lists, of the longest sequence that both have.
function common(old, now) {
  const lengths = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1)); // of the rest of both
  for (let i = old.length - 1; i >= 0; i -= 1) {
    for (let j = now.length - 1; j >= 0; j -= 1) {
      lengths[i][j] = old[i] === now[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const same = [[], []];
  for (let i = 0, j = 0; i < old.length && j < now.length; ) {
    if (old[i] === now[j]) {
      same[0].push(i++);
      same[1].push(j++);
    } else if (lengths[i + 1][j] >= lengths[i][j + 1]) i += 1;
    else j += 1;
  }
  return same;
}

function marked(words, same, tag) {
  const pieces = [];
  words.forEach((word, index) => {
    const kind = same.has(index) ? "span" : tag;
    if (pieces.at(-1)?.localName !== kind) pieces.push(document.createElement(kind));
    pieces.at(-1).append(word);
  });
  return pieces;
}
