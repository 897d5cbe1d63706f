console.log("imdsproxy");
