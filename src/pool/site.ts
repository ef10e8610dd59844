/**
 * Where in the user's program a call came from.
 *
 * The engine records a stack cheaply and turns it into text only when asked, so the text is made for reports alone.
 */

/** A place in the program, described when asked. */
export interface Site {
  describe(): string;
}

/**
 * This package's folder as it stands in stacks. Read from a stack of our own: with source maps on, frames name the
 * sources and not the compiled files. Empty when bundled, where our frames can't be told from the user's.
 */
let ownFolder: string | undefined;

function findOwnFolder(): string {
  const own = frames(new Error().stack ?? '')[0] ?? '';
  const end = own.lastIndexOf('pool/site.');
  // From the path's first character, which comes after the frame's function, up to the folder that holds `pool`.
  return end < 0 ? '' : /[^(@]*$/.exec(own.slice(0, end))![0].replace(/^at /, '');
}

/** Enough to get past our own frames and find the user's. */
const FRAMES = 16;

/** Records where the package was called from. Never throws. */
export function captureSite(): Site {
  // Standard in V8 and JavaScriptCore; where it is missing, stacks are as long as the engine likes.
  const errors = Error as { stackTraceLimit?: number };
  const before = errors.stackTraceLimit;
  setStackTraceLimit(FRAMES);
  const error = new Error();
  setStackTraceLimit(before);
  return { describe: () => describeStack(error.stack ?? '') };
}

function setStackTraceLimit(frames: number | undefined): void {
  try {
    if (frames !== undefined) (Error as { stackTraceLimit?: number }).stackTraceLimit = frames;
  } catch {
    // Frozen (node --frozen-intrinsics): then stacks are as long as they are.
  }
}

/** The first frame outside this package, as `function (file:line:column)`. */
function describeStack(stack: string): string {
  ownFolder ??= findOwnFolder();
  const all = frames(stack);
  const folder = ownFolder;
  const user = folder === '' ? undefined : all.find((frame) => !frame.includes(folder));
  const place = (user ?? all.at(-1) ?? 'an unknown place').replace(/^at |file:\/\//g, '');
  // With source maps on, Node names the top level of a module so; the place alone says as much.
  return place.replace(/^<anonymous> \((.*)\)$/, '$1');
}

/** V8 writes `at function (place)`, JavaScriptCore `function@place`. */
function frames(stack: string): string[] {
  return stack
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith('at ') || line.includes('@'));
}
