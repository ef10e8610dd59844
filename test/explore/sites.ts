/** Places in instrumented source where a worker can be interrupted. */
import type ts from 'typescript';

/** A numbered place: an instrumented generator yields the number. */
export interface Site {
  /** For example `src/shared/lock.ts:31`. */
  readonly place: string;
  /** For example `Atomics.store`, `write`, `fill`. */
  readonly kind: string;
  /** The source, shortened. */
  readonly text: string;
}

const LONGEST = 70;

export function siteAt(node: ts.Node, kind: string, relative: (file: string) => string): Site {
  const text = node.getText().replace(/\s+/g, ' ');
  return {
    place: placeOf(node, relative),
    kind,
    text: text.length > LONGEST ? `${text.slice(0, LONGEST - 3)}...` : text,
  };
}

export function placeOf(node: ts.Node, relative: (file: string) => string): string {
  const file = node.getSourceFile();
  const { line } = file.getLineAndCharacterOfPosition(node.getStart());
  return `${relative(file.fileName)}:${String(line + 1)}`;
}
