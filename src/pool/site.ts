/**
 * Call sites in the user's program.
 *
 * The engine captures a stack cheaply, and formats it at the first access to `stack`. Only reports format it.
 */

/** A call site. `describe` formats it. */
export interface Site {
  describe(): string;
}

/**
 * This package's folder in stack frames. Taken from a stack of this module, because source maps change the names in
 * frames. Empty in a bundle, where the package's frames can't be distinguished from the user's.
 */
let ownFolder: string | undefined;

function findOwnFolder(): string {
  const own = frames(new Error().stack ?? '')[0] ?? '';
  const end = own.lastIndexOf('pool/site.');
  // The path without the function name before it, up to the folder that contains `pool`.
  return end < 0 ? '' : /[^(@]*$/.exec(own.slice(0, end))![0].replace(/^at /, '');
}

/** Enough frames to contain one of the user's. */
const FRAMES = 16;

/** Captures the site of the current call. Never throws. */
export function captureSite(): Site {
  // V8 and JavaScriptCore have it. Other engines choose the length of stacks themselves.
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
    // Frozen by node --frozen-intrinsics: the limit stays.
  }
}

/** The first frame outside this package, as `function (file:line:column)`. */
function describeStack(stack: string): string {
  ownFolder ??= findOwnFolder();
  const all = frames(stack);
  const folder = ownFolder;
  const user = folder === '' ? undefined : all.find((frame) => !frame.includes(folder));
  const place = (user ?? all.at(-1) ?? 'unknown').replace(/^at |file:\/\//g, '');
  // With source maps, Node formats a frame at a module's top level as `<anonymous> (place)`.
  return place.replace(/^<anonymous> \((.*)\)$/, '$1');
}

/** V8 formats frames as `at function (place)`, JavaScriptCore as `function@place`. */
function frames(stack: string): string[] {
  return stack
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith('at ') || line.includes('@'));
}
