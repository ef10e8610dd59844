/**
 * Which part of the package may import which: `npm run imports`, and a stage of `npm test`.
 *
 * TABLE is the whole of it. Imports of types count. The rules below are built from it, and test/layout breaks each once.
 */
/**
 * @typedef {object} Part
 * @property {string} files Its files, as a regular expression.
 * @property {string} [own] What counts as itself, if not all of `files`.
 * @property {string[]} [below] Parts that it may import. What those may import, it may too.
 * @property {string[]} [also] Parts that it may import itself, without what those may import.
 * @property {string[]} [outside] Packages that it may import; `node:` stands for every module of Node's own, `*` for all.
 */

// Parts without `outside` run on every runtime and depend on nothing.
/** @type {Record<string, Part>} */
const TABLE = {
  errors: { files: 'src/errors.ts' },
  arguments: { files: 'src/arguments(?:[.]ts$|/)', below: ['errors'] },
  memory: { files: 'src/memory/', below: ['arguments'] },
  device: { files: 'src/device/', below: ['memory'] },
  pool: { files: 'src/pool/', below: ['device'] },
  'dma-pool': { files: 'src/dma-pool.ts', below: ['pool'] },
  dmapool: { files: 'src/index.ts', below: ['dma-pool'] },
  shared: { files: 'src/shared/', below: ['dma-pool'] },
  observe: { files: 'src/observe/(?!page/)', below: ['shared'], outside: ['node:'] },
  // Bundled for browsers.
  'observe/page': { files: 'src/observe/page/', also: ['observe'], outside: ['uplot'] },
  pci: { files: 'src/pci/', below: ['dma-pool'] },
  linux: { files: 'src/linux/', below: ['pci'], outside: ['node:', 'koffi'] },
  // A machine's RAM is a memory file that `linux` creates and maps.
  qemu: { files: 'src/qemu/', below: ['linux'], outside: ['node:'] },
  kernel: { files: 'src/kernel/', below: ['dma-pool'] },
  wasm: { files: 'src/wasm/', below: ['memory'] },
  conformance: { files: 'src/conformance/', below: ['dma-pool'] },
  // A client of the public entry point.
  trace: { files: 'src/trace/', below: ['dmapool', 'shared'], outside: ['node:'] },

  // From here on, of `src` and `drivers` only the entry points, which `public` stands for.
  // A driver runs with every PCI backend, so it knows none; `dmapool` and `dmapool/pci` by these names only.
  'drivers/common': { files: 'drivers/common/', outside: ['dmapool', 'dmapool/pci', 'dmapool/arguments'] },
  drivers: {
    files: 'drivers/(?!common/)([^/]+)/',
    own: 'drivers/$1/',
    also: ['drivers/common'],
    outside: ['dmapool', 'dmapool/pci', 'dmapool/arguments'],
  },
  // `dmapool demo` runs the examples.
  cli: { files: 'src/cli/', also: ['public', 'examples'], outside: ['node:', 'commander'] },
  bin: { files: 'bin/', outside: ['node:'] },
  examples: { files: 'examples/', also: ['public'], outside: ['node:'] },
  scripts: { files: 'scripts/', outside: ['node:', 'commander', 'typescript', 'playwright-core', 'esbuild'] },
  bench: { files: 'bench/', also: ['public', 'scripts', 'cli'], outside: ['node:', 'prettier'] },
  // Tests import the inside of the part that they test too: those in test/pool src/pool, those in test/drivers/nvme
  // drivers/nvme: `tested`. The command has no entry point to import, and is tested beside what it does.
  test: {
    files: 'test/(?!(?:shared|fuzz)/)((?:drivers/)?[^/]+)/',
    own: 'test/',
    also: ['public', 'tested', 'cli', 'scripts', 'examples'],
    outside: ['*'],
  },
  // Hostile answers and traces are fed to their readers.
  'test/fuzz': { files: 'test/fuzz/', own: 'test/', also: ['public', 'qemu', 'trace'], outside: ['*'] },
  // The interleavings of a shared pool are those of the hot path with the shared backend.
  'test/shared': { files: 'test/shared/', own: 'test/', also: ['public', 'shared', 'pool'], outside: ['*'] },
};

/** Entry points, by path or, as package.json's `exports` gives them, as compiled. */
const PUBLIC = '(dist/)?((src|src/[^/]+|drivers/[^/]+)/index|src/arguments|src/observe/register)[.][jt]s$';
const OWN_NAME = 'dmapool($|/)';

/** A part and everything below it. */
const closure = (names, found = new Set()) => {
  for (const name of names) {
    found.add(name);
    closure(TABLE[name].below ?? [], found);
  }
  return [...found];
};

const filesOf = (name) => {
  if (name === 'public') return [PUBLIC, OWN_NAME];
  // The group is the folder below test/.
  return [name === 'tested' ? '(src/)?$1(/|[.]ts$)' : TABLE[name].files];
};

const outsideOf = (name) => {
  if (name === '*') return ['(?!(src|drivers|dist|bench|scripts|examples|bin)/|dmapool($|/))'];
  if (name === 'node:') return [];
  // The package's own name before it is built, and what it leads to after.
  if (name.startsWith('dmapool')) return [`${name}$`, `dist/src${name.slice('dmapool'.length)}(/index)?[.]js$`];
  return [`(?:|.*/)node_modules/${name}/`];
};

const anchored = (patterns) => patterns.map((pattern) => `^${pattern}`);

const rules = Object.entries(TABLE).map(([name, { files, own = files, below = [], also = [], outside = [] }]) => {
  const may = [...closure(below), ...also];
  return {
    name,
    severity: 'error',
    comment: `${name} may import itself, ${[...may, ...outside].join(', ') || 'nothing else'}`,
    from: { path: `^${files}` },
    to: {
      pathNot: anchored([own, ...may.flatMap(filesOf), ...outside.flatMap(outsideOf)]),
      ...(outside.includes('node:') ? { dependencyTypesNot: ['core'] } : {}),
    },
  };
});

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    ...rules,
    {
      name: 'no-circle',
      severity: 'error',
      comment: 'Arrows point one way, those of types included: move what both need to a file below.',
      from: {},
      to: { circular: true },
    },
    {
      name: 'in-a-part',
      severity: 'error',
      comment: 'A file belongs to a part: put it into one, or add a part to the table.',
      from: { pathNot: [...anchored(Object.values(TABLE).map(({ files }) => files)), '^[^/]+[.]js$'] },
      to: {},
    },
    {
      name: 'resolvable',
      severity: 'error',
      comment: 'The import leads nowhere.',
      from: {},
      to: { couldNotResolve: true, pathNot: `^${OWN_NAME}` },
    },
  ],
  options: {
    tsPreCompilationDeps: true,
    detectProcessBuiltinModuleCalls: true,
    doNotFollow: { path: ['(^|/)node_modules/', '^dist/'] },
    exclude: { path: '^test/runtimes/node_modules/' },
    moduleSystems: ['es6', 'cjs'],
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
  },
};
