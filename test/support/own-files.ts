/** Files that a program of this package reads: for Node's permission model. */
import { existsSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** Patterns for `--allow-fs-read`: the package, and koffi with its native part. The folders may be links. */
export const OWN_FILES: readonly string[] = [
  root,
  ...['koffi', '@koromix'].map((name) => join(root, 'node_modules', name)),
]
  .filter((path) => existsSync(path))
  .map((path) => join(realpathSync(path), '*'));
