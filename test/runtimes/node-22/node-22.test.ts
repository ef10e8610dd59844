import { testRuntime } from '../suite/run.ts';

testRuntime({ name: 'Node 22', command: 'node-22/bin/node', webWorkers: false, typescript: true });
