/**
 * Seeded mistakes, as changes of the source text. Each must match exactly one place, so that none silently disappears.
 */

/** Changes the text of a file before it is instrumented. */
export type Mutation = (fileName: string, text: string) => string;

function edit(file: string, change: (text: string) => string): Mutation {
  return (fileName, text) => (fileName.endsWith(file) ? change(text) : text);
}

/** The number of the one line that contains `content`. */
function lineWith(lines: readonly string[], content: string): number {
  const found = lines.flatMap((line, at) => (line.includes(content) ? [at] : []));
  if (found.length !== 1) throw new Error(`'${content}' is in ${String(found.length)} lines, not in one`);
  return found[0]!;
}

/** Deletes the one line that contains `content`. */
export function deleteLine(file: string, content: string): Mutation {
  return edit(file, (text) => {
    const lines = text.split('\n');
    lines.splice(lineWith(lines, content), 1, '');
    return lines.join('\n');
  });
}

/** Swaps the one line that contains `content` with the next. */
export function swapWithNext(file: string, content: string): Mutation {
  return edit(file, (text) => {
    const lines = text.split('\n');
    const at = lineWith(lines, content);
    [lines[at], lines[at + 1]] = [lines[at + 1]!, lines[at]!];
    return lines.join('\n');
  });
}

/** Moves the line that contains `content` to just before the one that contains `before`. */
export function moveBefore(file: string, content: string, before: string): Mutation {
  return edit(file, (text) => {
    const lines = text.split('\n');
    const [line] = lines.splice(lineWith(lines, content), 1);
    lines.splice(lineWith(lines, before), 0, line!);
    return lines.join('\n');
  });
}

/** Replaces `from`, which may span lines, by `to`. */
export function replaceText(file: string, from: string, to: string): Mutation {
  return edit(file, (text) => {
    const parts = text.split(from);
    if (parts.length !== 2) throw new Error(`'${from}' is there ${String(parts.length - 1)} times, not once`);
    return parts.join(to);
  });
}

/** Applies all of them in order. */
export function allOf(...mutations: readonly Mutation[]): Mutation {
  return (fileName, text) => mutations.reduce((changed, mutation) => mutation(fileName, changed), text);
}
