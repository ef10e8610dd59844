/**
 * Where in the user's program a call came from.
 *
 * The engine records a stack cheaply and turns it into text only when asked, so the text is made for reports alone.
 */

/** A place in the program, described when asked. */
export interface Site {
  describe(): string;
}

/** Folder of this package's compiled files: frames in it are ours, not the user's. */
const OWN_FOLDER = new URL('..', import.meta.url).href;
const OWN_PATH = OWN_FOLDER.startsWith('file://') ? decodeURI(OWN_FOLDER.slice('file://'.length)) : OWN_FOLDER;

/** Enough to get past our own frames and find the user's. */
const FRAMES = 16;

/** Records where the package was called from. */
export function captureSite(): Site {
  // Standard in V8 and JavaScriptCore; where it is missing, stacks are as long as the engine likes.
  const errors = Error as { stackTraceLimit?: number };
  const before = errors.stackTraceLimit;
  errors.stackTraceLimit = FRAMES;
  const { stack } = { stack: new Error('site') };
  if (before !== undefined) errors.stackTraceLimit = before;
  return { describe: () => describeStack(stack.stack ?? '') };
}

/** The first frame outside this package, as `function (file:line:column)`. */
export function describeStack(stack: string): string {
  const frames = stack
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith('at ') || line.includes('@'));
  const user = frames.find((frame) => !frame.includes(OWN_FOLDER) && !frame.includes(OWN_PATH));
  const frame = user ?? frames.at(-1);
  if (frame === undefined) return 'an unknown place';
  return frame.replace(/^at /, '').replace('file://', '');
}
